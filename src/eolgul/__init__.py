"""eolgul (얼굴): face verification from raw data to a served verdict. The rooms, in the order the data walks, are in README.md."""

__version__ = "0.2.0"
