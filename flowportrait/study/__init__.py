"""The human study of §2.3 and App. A: rubrics, blind tasks, the store of answers, agreement,
alignment of judges.
"""
