"""The cascade: a student learns from the model's labels and answers where an exact test certifies its agreement."""
