"""What Python calls: the functions that ``bayes_merger/__init__.py`` lists, by what they are for.

These are the few functions of a notebook; everything they are made of can be used as well (see ARCHITECTURE.md).
"""
