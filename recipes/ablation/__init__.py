"""Does a student gain by better targets, and how much at most? Small students, many seeds, paired differences."""
