"""Many runs compared."""
