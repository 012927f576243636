"""Token reduction methods. ``<method>/plan.py`` makes a Schedule; ``apply.py`` (torch) runs it."""
