"""A command is a file here: the function of its name, declared with `app.command`."""
