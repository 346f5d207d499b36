

def rule(form):
    def r(equation, values):
        return None

    return r
