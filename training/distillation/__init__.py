"""Training with a teacher: what is planned, the teacher live or read from its cache, the student's start and step."""
