"""Networks that a study takes in although this project did not train them: examples to copy."""
