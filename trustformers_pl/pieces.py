class Pieces:
    shape = ()
    def whole(self): raise NotImplementedError
