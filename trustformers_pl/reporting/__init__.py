"""The run report as a page: read from one or several run folders, without torch; the record it is read from."""
