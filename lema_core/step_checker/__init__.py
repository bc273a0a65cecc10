"""False equations in a reasoning step."""
