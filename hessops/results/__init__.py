"""What verbs return, by the kind of question."""
