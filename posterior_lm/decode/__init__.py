"""What a model decodes, as methods that a posterior is compared with."""
