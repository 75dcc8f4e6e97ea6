"""Common claims about MQA and GQA, each tested against the engines."""
