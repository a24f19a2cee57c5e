-- How the other scripts print what wrk counted.
return function(summary, latency)
  local errors = summary.errors
  print(string.format(
    'RESULT {"requests": %d, "seconds": %.4f, "mean_ms": %.4f, "p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, "failed": %d}',
    summary.requests, summary.duration / 1e6, latency.mean / 1e3, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
