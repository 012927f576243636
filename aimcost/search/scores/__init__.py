"""Published scores of reduced models, and what is expected of a schedule that nobody scored."""
