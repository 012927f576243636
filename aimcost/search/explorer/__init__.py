"""What the explorer's page computes from: schedules of a grid of settings, and priced rows by token count."""
