"""Policies that are trained in other ways, which a posterior is compared with."""
