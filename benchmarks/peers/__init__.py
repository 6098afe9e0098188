"""The other durable runners, each in an environment of its own and used as its documentation recommends."""
