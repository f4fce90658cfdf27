"""What several test modules share: helpers without fixtures."""
