"""streaming: packs -> batches of waveforms, in an order that is a pure function of one integer. No Ray."""
