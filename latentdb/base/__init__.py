"""What every other package builds on.

errors      every exception latentdb raises
files       durable writes, verified reads
outputs     files that a user asked for, which replace no others
hdf5        arrays and text of HDF5 files that are not trusted
validate    checks of vectors and ids that come from a caller
progress    what a long run reports
wording     numbers with their nouns, for messages
arrow       pyarrow, where it is installed
condition   how a network takes the condition of a conditional model
cores       how many cores this process may use
"""
