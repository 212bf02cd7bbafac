"""Tests of sweep.leaderboard."""
