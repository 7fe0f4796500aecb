"""Networks, a file a family; :mod:`sandwatch.model.network` says which there are and what may be said of each."""
