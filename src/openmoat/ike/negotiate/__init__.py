"""What two peers agree on: suites, selectors, AGGFRAG, and the explanation where they do not."""
