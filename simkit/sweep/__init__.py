"""Every point of a study into one file: in parts, on any workers, resumed after a crash or kill."""
