"""What can be wrong with a deployment: each check finds one thing, and says how to put it right.

A module for each subject has its checks, in the tuple CHECKS. `facts` reads what they look at;
`examination` makes all of them. `operations.doctor()` is the way in.
"""
