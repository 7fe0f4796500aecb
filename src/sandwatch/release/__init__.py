"""What goes out with a model, to people who hold no clone."""
