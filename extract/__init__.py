"""Images -> teacher -> maps -> shards: planning and running the extraction job."""
