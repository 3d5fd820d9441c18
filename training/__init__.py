"""What made the weights that the package ships: for a checkout, never imported by the package."""
