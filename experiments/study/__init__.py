"""Many runs: started as processes, and compared."""
