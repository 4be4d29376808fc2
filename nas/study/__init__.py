"""What a search maximizes, and the durable record of its trials that several processes share."""
