"""Raw timing records: what was measured, on which machine, with every single sample.

A record is one JSON file that is never edited afterwards. `RecordWriter` replaces the file as a whole
each time something is added, so that a run that is killed leaves what it had finished, marked
incomplete, and never half a file.
"""

from .contents import HELD_OUT, Clock, Environment, Record, Sample
from .reading import load_record
from .writing import RecordWriter, now

__all__ = [
    "HELD_OUT",
    "Clock",
    "Environment",
    "Record",
    "RecordWriter",
    "Sample",
    "load_record",
    "now",
]
