"""Runs PTX on the CPU, under schedules of its choice, and checks every access. README.md says how."""
