"""exp10: does a direction that predicts the convergence gap also move it?"""
