"""What every other package stands on: errors, durable files, argument checks, progress, cores."""
