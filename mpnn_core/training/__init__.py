"""Training and evaluation of students, smaller networks that learn from the published one."""
