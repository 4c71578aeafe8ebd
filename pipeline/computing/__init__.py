"""What computes quantities from stores: by threads, processes or a cluster."""
