"""The user's side of submitted jobs: submit, follow, inspect and stop them."""
