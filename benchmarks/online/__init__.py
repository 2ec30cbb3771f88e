"""Online predictions, measured side by side with other servers; how each command does it stands at its top."""
