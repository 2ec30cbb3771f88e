"""The result cache: an item that a model version has predicted before is answered without the model.

It is asked before and told after, by whoever may touch the database; in between, `Recall` travels with the items.
"""
