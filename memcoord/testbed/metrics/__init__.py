"""The statistics feed as Prometheus metrics: names, values, the server, a dashboard, alerts."""
