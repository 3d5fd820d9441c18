"""Who and where: the names and places that stories and plain sentences share."""

from __future__ import annotations

from .choice import Table, phrase, weighted

BOYS = {"Tom": 5.0, "Ben": 4.0, "Max": 3.0, "Sam": 2.0, "Leo": 1.5, "Jack": 1.0}
GIRLS = {"Anna": 5.0, "Mia": 4.0, "Lucy": 3.0, "Emma": 2.0, "Rose": 1.5, "Kate": 1.0}
NAMES: Table = weighted(BOYS | GIRLS)
PLACES: tuple[str, ...] = ("park", "kitchen", "beach", "school", "garden", "station")
PLACE: Table = phrase("{park:5|garden:4|beach:3|kitchen:3|school:2|station:1.5}")
AT = {
    "park": "in the park",
    "kitchen": "in the kitchen",
    "beach": "on the beach",
    "school": "at school",
    "garden": "in the garden",
    "station": "at the station",
}
TO = {
    "park": "to the park",
    "kitchen": "to the kitchen",
    "beach": "to the beach",
    "school": "to school",
    "garden": "to the garden",
    "station": "to the station",
}


def pronouns(name: str) -> dict[str, str]:
    """Template slots for a person: He, he, him, his, His."""
    if name in BOYS:
        return {"He": "He", "he": "he", "him": "him", "his": "his", "His": "His"}
    return {"He": "She", "he": "she", "him": "her", "his": "her", "His": "Her"}
