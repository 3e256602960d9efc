"""The experiment system around `supjax`: networks, data, training runs and reports."""
