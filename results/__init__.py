"""What was measured: store, queries, statistics, claims, figures, report and the MLflow mirror."""
