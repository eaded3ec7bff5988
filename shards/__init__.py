"""shards: labelled audio -> WebDataset tars with a parquet index. No torch, no Ray of its own."""
