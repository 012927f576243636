"""Token reduction methods, one folder each.

``plan.py`` makes the Schedule, ``cost.py`` registers what its selection costs, ``apply.py`` (torch) runs it.
A folder with these files is a method: nothing else lists it.
"""
