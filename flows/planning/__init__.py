"""What a run would do and cost, with nothing sent: the stages of a run or a sweep, their requests, money and hours."""
