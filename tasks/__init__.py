"""What runs inside a trial: training, interventions, analyses. Knows neither Ray nor Parquet."""
