"""Compiled loops for the CPU, behind one door."""
