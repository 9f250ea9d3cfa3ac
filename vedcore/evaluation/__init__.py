"""Judgement of a model by the texts that it generates of labelled images."""
