"""The fourteen things that can happen in a story, each with its wordings.

The middle of a story says what happened; its ending shows which event it was but
nothing of how it was worded. All templates are read by `choice.phrase`.
"""

from __future__ import annotations

EVENTS: dict[str, float] = {
    "friend": 16.0,
    "coin": 12.0,
    "rain": 10.0,
    "sleep": 9.0,
    "ball": 7.0,
    "lunch": 7.0,
    "fall": 6.0,
    "band": 6.0,
    "keys": 5.0,
    "balloon": 5.0,
    "cat": 4.0,
    "bee": 4.0,
    "window": 3.0,
    "burn": 2.0,
}

# How much likelier an event is at a place, or in company; 1 where absent.
AT_PLACE: dict[str, dict[str, float]] = {
    "park": {"ball": 2.0, "band": 1.5, "burn": 0.3, "keys": 0.8},
    "kitchen": {"burn": 12.0, "lunch": 2.0, "rain": 0.2, "cat": 0.3, "balloon": 0.3, "band": 0.3},
    "beach": {"ball": 1.5, "sleep": 2.0, "cat": 0.3, "burn": 0.3, "window": 0.4, "coin": 1.5},
    "school": {"friend": 2.0, "fall": 1.5, "band": 1.5, "window": 2.5, "burn": 0.5},
    "garden": {"bee": 4.0, "cat": 3.0, "sleep": 1.5, "burn": 0.3},
    "station": {"keys": 2.5, "band": 2.0, "friend": 1.5, "bee": 0.3, "burn": 0.3, "window": 0.5},
}
IN_COMPANY: dict[str, dict[str, float]] = {
    "": {},
    "dog": {"ball": 2.5, "lunch": 2.5, "cat": 1.5, "sleep": 0.6},
    "friend": {"friend": 0.3, "window": 2.0, "fall": 1.5},
}
IN_WEATHER: dict[str, dict[str, float]] = {
    "": {},
    "warm": {"rain": 0.4, "sleep": 1.3},
    "sunny": {"rain": 0.2, "bee": 1.5},
    "cold": {"sleep": 0.4, "bee": 0.4},
    "grey": {"rain": 4.0, "balloon": 0.5},
    "windy": {"rain": 1.5, "balloon": 3.0},
}

MIDDLE: dict[str, str] = {
    "friend": " <He> {met:4|saw:2|ran into:1} {an old friend:4|a friend from school:3"
    "|a very old friend:1|<his> best friend:2}.",
    "coin": " <He> {found:4|saw:2|picked up:1} {a coin:4|some money:3|a gold coin:1}"
    " {on the ground:3|under a chair:1}.",
    "rain": " {Then it began:4|Soon it started:3|It suddenly began:1} to rain"
    "{:5| hard:2| very hard:2| very, very hard:0.5}.",
    "sleep": " <He> {fell asleep:4|took a nap:2|went to sleep:1} {on the floor:1|under a tree:3"
    "|in a chair:2}.",
    "ball": " {A dog:4|A brown dog:2|A very big dog:1|The dog:2} {ran off:3|ran away:2} with"
    " {the:2|<his>:1} ball.",
    "lunch": " {The dog:4|A big dog:2|A hungry dog:1} {ate:4|took:2|stole:1} {all of :1|:4}<his>"
    " {lunch:3|bread:1}.",
    "fall": " <He> {fell:4|slipped:2|fell down:1} and {hurt:3|cut:1} <his> {knee:3|arm:2|hand:1}.",
    "band": " {A band:4|Some children:1|A man:2} {began:3|started:2} to {play music:3|sing:2"
    "|sing very loudly:0.5}.",
    "keys": " <He> {lost:4|dropped:2|could not find:2} <his> {keys:4|house keys:1}"
    "{:3| on the way:2| there:1}.",
    "balloon": " {A red balloon:4|A big balloon:2|A very big balloon:1|Two red balloons:1}"
    " {flew by:3|went up in the sky:1|came down:1}.",
    "cat": " {A cat:4|A small cat:3|A white cat:1} {climbed up:4|got stuck in:2|ran up:1}"
    " a {:3|very :1}tall tree.",
    "bee": " {A bee:5|A wasp:1|A very angry bee:1} {stung:4|bit:1} {<him>:4|<his> hand:2|<his> foot:1}.",
    "window": " {<His> ball:4|A ball:2|A stone:1} {broke:4|hit:2|went through:1}"
    " {a window:3|the window:2|a big window:1}.",
    "burn": " {The soup:4|The bread:3|A cake:2|The rice:1} {burned:4|began to burn:2|caught fire:1}.",
}

ENDING: dict[str, str] = {
    "friend": "They {talked:4|laughed:1|sat and talked:2} {for hours:4|all day:2|until dark:1}.",
    "coin": "<He> {bought:4|got:1} {ice cream:3|a toy:2|some candy:2|a book:1} with it.",
    "rain": "<He> {went:3|ran:3|came:1} home {wet:3|all wet:2|wet and cold:2|in wet shoes:1}.",
    "sleep": "It was {dark:4|late:3|night:1} when <he> woke up{:4| again:1}.",
    "ball": "{They:2|<He>:3} never {got the ball back:4|saw the ball again:3|found the ball:1}.",
    "lunch": "{There was:3|<He> had} {nothing:4|no food:2} left{:2| to eat:3}.",
    "fall": "{The doctor:3|A nurse:2|<His> mother:2} {cleaned it:2|put a bandage on it:3|took care of it:1}.",
    "band": "{Everyone:4|All the people:2} {danced:3|clapped:3|sang along:1}{:3| for a long time:1}.",
    "keys": "<He> {could not:4|was not able to:1} {get into:2|open:2} {the house:3|the door:3|<his> room:1}.",
    "balloon": "<He> {took:4|made:1} {a picture:4|a nice picture:2|a photo:2} of {it:1|the sky:1}.",
    "cat": "{A fireman:3|A tall man:2|<He>:2} {helped it:3|got it} {down:3|to the ground:1}.",
    "bee": "It {hurt:4|was red:2|was very red:1} {all day:3|for a week:2|for days:1}.",
    "window": "<He> had to {pay for:4|fix:3} {it:3|the glass:2}{:3| with <his> own money:1}.",
    "burn": "They {ordered:4|had:2|went out for:1} {pizza:4|noodles:2} {instead:3|that night:2}.",
}

# Endings that fit any event, so a story's event is not always shown.
ANY_ENDING = "It was {a day to remember:3|a strange day:2|a very strange day:1|a good story to tell:1}."
ANY_ENDING_PROB = 0.08
