"""Clips for the tests, and a way to look at media again that shares nothing with the code under test."""
